"""What is said of sounds: structured captions, and the pair of text encoders that reads them."""
