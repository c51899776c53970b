"""The driver's side: sources, plan, scheduling, commits, export."""
