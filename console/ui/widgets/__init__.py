"""What panels and the app are built of: panes, tables, filters, dialogs, styles."""
