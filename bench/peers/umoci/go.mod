module fastcas-bench/umoci-peer

go 1.24.0

require (
	github.com/apex/log v1.9.0
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
	github.com/opencontainers/umoci v0.6.0
)

require (
	github.com/pkg/errors v0.9.1 // indirect
	golang.org/x/sys v0.37.0 // indirect
)

// umoci's go.mod has this line too, and a replace of a dependency isn't inherited.
replace github.com/vbatts/go-mtree => github.com/cyphar/go-mtree v0.0.0-20250928235313-918fa724e2fe
