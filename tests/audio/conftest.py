"""What the tests of sound share."""
