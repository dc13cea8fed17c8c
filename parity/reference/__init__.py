"""The original models in torch, written anew, so that a port can be proved without a checkout of their repositories.

Each module loads its upstream's state dict strictly and computes its numbers; it says which repository and commit it
stands for, and where it deviates. torch and numpy only, and no Paddle: a reference knows nothing of its port.
"""
