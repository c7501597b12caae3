"""The widgets of panels and the app: panes, tables, filters, dialogs, styles."""
