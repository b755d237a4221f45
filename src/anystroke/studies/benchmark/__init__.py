"""Models on fixed simulated patients."""
