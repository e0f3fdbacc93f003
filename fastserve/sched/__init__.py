"""The contract and the mechanism: Job, Policy, Plan, Scheduler. Standard library only."""
