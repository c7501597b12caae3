"""All use of the terminal itself and of private names of Textual and rich."""
