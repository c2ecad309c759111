"""The rules of the source level: what an application may rely on, whatever store is below. One topic a file."""
