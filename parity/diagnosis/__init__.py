"""Why a stage diverges: experiments on both sides, each of which ends in one sentence with its numbers."""
