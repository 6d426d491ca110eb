"""What the drivers share: data, settings, training runs, their results, tables and figures."""
