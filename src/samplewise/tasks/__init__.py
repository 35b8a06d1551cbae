"""What is asked: problems with their readers and graders. One file each."""
