# AES with a key and a counter that are always the same; the digest of the cipher text is what is hashed.
openssl enc -aes-128-ctr -K 000102030405060708090a0b0c0d0e0f -iv 000102030405060708090a0b0c0d0e0f -in /tmp/blob |
  openssl dgst -sha256
