"""Speech for the compressor: mel and STFT losses, audio metrics, and where speech comes from."""
