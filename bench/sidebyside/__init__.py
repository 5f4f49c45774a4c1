"""The driver of the bench: starts peers, loads them, counts what they cost, writes it down."""
