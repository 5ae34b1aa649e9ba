"""What a person asks for: parsed, checked, and frozen."""
