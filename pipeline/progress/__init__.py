"""What a person sees while a run goes on, and what the run writes down of it."""
