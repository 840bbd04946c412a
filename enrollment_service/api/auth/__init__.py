"""How callers prove who they are: access tokens, certificates, and the keys that both rest on."""
