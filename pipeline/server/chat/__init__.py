"""Chats: from messages to a prompt."""
