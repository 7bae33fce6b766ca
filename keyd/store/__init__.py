"""Keys, bindings, freezes and the rows of the audit log, in one database.

SQLAlchemy Core, used synchronously; one writer. ``store.py`` has the room's face.
"""
