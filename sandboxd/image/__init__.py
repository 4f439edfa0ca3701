"""Container images: from a registry or an archive to one read-only EROFS file.

reference, registries   what a name means and where it is fetched from
manifest                the door for manifests, indexes and configs
skopeo, archive         the two sources: a registry; a file or directory of the host
tarstream, tarsparse    tar, without I/O of its own
layer, treepath         one layer onto a directory tree, never leaving it
unpack                  the child process that does so
pack                    the tree into EROFS
database, store         what is here; the only door for callers: `sandboxd.image.store.ImageStore`
"""
