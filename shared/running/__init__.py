"""What a script does and no paper defines: options, state, signals, log, loader, samplers, processes."""
