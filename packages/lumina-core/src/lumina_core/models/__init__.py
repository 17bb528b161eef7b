"""The networks: backbones made of attention over tokens with positions. Knows tokens, never what they stand for."""
