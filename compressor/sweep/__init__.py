"""Many runs of one recipe with options varied: which students are worth having."""
