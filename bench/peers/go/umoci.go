package main

import (
	"context"
	"io"

	"github.com/apex/log"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/umoci/oci/cas"
	"github.com/opencontainers/umoci/oci/cas/dir"
	"github.com/opencontainers/umoci/oci/casext"
)

// umociStore is umoci's directory engine, used as its own commands use it.
type umociStore struct{ engine cas.Engine }

func createUmoci(root string) error { return dir.Create(root) }

func openUmoci(root string) (store, error) {
	log.SetLevel(log.WarnLevel) // a walk tells of each layer that it has no parser for it
	engine, err := dir.Open(root)
	return umociStore{engine}, err
}

func (s umociStore) close() error { return s.engine.Close() }

func (s umociStore) put(ctx context.Context, source io.Reader, _ ispec.Descriptor) (digest.Digest, error) {
	name, _, err := s.engine.PutBlob(ctx, source)
	return name, err
}

// get: the reader verifies; its verdict is only certain after Close.
func (s umociStore) get(ctx context.Context, expected ispec.Descriptor) (io.Reader, func() error, error) {
	blob, err := s.engine.GetBlob(ctx, expected.Digest)
	if err != nil {
		return nil, nil, err
	}
	return blob, blob.Close, nil
}

func (s umociStore) list(ctx context.Context) (int, error) {
	names, err := s.engine.ListBlobs(ctx)
	return len(names), err
}

func (s umociStore) tag(ctx context.Context, name string, target ispec.Descriptor) error {
	return casext.NewEngine(s.engine).UpdateReference(ctx, name, target)
}

func (s umociStore) walk(ctx context.Context) (count int, err error) {
	extended := casext.NewEngine(s.engine)
	index, err := extended.GetIndex(ctx)
	if err != nil {
		return 0, err
	}
	for _, entry := range index.Manifests {
		err := extended.Walk(ctx, entry, func(casext.DescriptorPath) error {
			count++
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return count, nil
}

func (s umociStore) gc(ctx context.Context) error { return casext.NewEngine(s.engine).GC(ctx) }
