"""The functions of `import edgeoe`. Heavy packages are imported when a function is called."""
