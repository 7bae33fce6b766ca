"""Collections of Docker Content Trust, published with keys that keyd holds.

names        docker's names of images, and the GUN of a collection
settings     notary's config.json, docker's folder: which server, which trust, whose CAs
credentials  docker's logins
web          HTTP: TLS with own CAs, registries' tokens, bounded answers
server       notary-server's calls
registry     digest and size of a manifest
keyobjects   public keys and certificates as Notary writes them
metadata     metadata files in the one form whose bytes notary-server hashes as we do
rootcert     certificates of keys on tokens, signed by keyd
pinning      which root certificates are trusted at first sight
served       one file as a server serves it, read
trusted      all that a server serves of a collection, verified from the root down
lookup       which signature counts for a name
cache        a collection's folder: what was seen last, what is staged
changes      what people staged
keyring      public key -> signatures by keyd
evidence     what the daemon is shown of a published collection
drafting     the next version of each role that changes
conflict     what other publishers did meanwhile
publication  sign, send, and check what is served
collection   one collection as the commands see it
rotation     from one key to the next
delegations  who else may sign, and for which names
signers      as whom tags are signed
images       signed tags as docker shows and pulls them
oldkeys      the key files of notary and docker
oldplaces    where keys are before they move
migration    from key files to tokens
"""
