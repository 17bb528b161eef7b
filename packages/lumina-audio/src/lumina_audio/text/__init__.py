"""Text encoders and structured captions."""
