"""What is known of a graph before anything is changed: scopes and uses, shapes, constants."""
