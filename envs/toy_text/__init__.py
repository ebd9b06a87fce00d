"""Gymnasium's small environments in words: its toy texts and its pole on a cart."""
