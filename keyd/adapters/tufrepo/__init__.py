"""TUF repositories on disk, changed so that every moment in between is a valid repository.

folder      files, the lock, atomic writes
settings    .keyd-tuf.json: which URI signs for which keyid, how long each role lives
published   what the clients see, verified when it is read
keyring     public key -> securesystemslib Signer
change      stage, sign, converge, publish: the only way to new metadata
gathering   signatures at a version that is free, for bytes that stay
evidence    what daemons are shown of the published repository
chain       published files of any repository, verified for `keydctl role`
report      what a change did, and what it waits for
edits       what a new root or targets shall say
rotation    a role's key from one version to the next, together with the daemon
migration   a repository with other signers becomes one of keyd's
inspection  verify, show, status
"""
