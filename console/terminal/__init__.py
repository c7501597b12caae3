"""Every reach into the terminal and into Textual's and rich's insides."""
