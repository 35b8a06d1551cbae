"""Tasks: problems with their readers and graders. One file per benchmark."""
