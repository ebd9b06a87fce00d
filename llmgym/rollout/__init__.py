"""Engine x vector environment -> trajectories; returns; batches."""
