"""What a person submits: the command line and the job file."""
