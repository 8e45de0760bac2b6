"""Output for people and other programs: terminal, HTML, Markdown, JUnit, GitHub, JSON."""
