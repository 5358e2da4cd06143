"""The work of each workflow rule: paths and plain values in, files out. Scripts under workflow/scripts call these."""
