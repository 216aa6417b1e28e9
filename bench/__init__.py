"""gevpy's benchmark instruments; `bench/README.md` says how to read and repeat them."""
