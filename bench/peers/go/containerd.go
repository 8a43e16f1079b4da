package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdStore is containerd's local content store alone: its index and its garbage collection belong
// to a database above it.
type containerdStore struct{ content.Store }

func createContainerd(root string) error {
	_, err := openContainerd(root)
	return err
}

func openContainerd(root string) (store, error) {
	// At each opening it warns of a filesystem without fs-verity.
	if err := log.SetLevel("error"); err != nil {
		return nil, err
	}
	opened, err := local.NewStore(root)
	return containerdStore{opened}, err
}

func (s containerdStore) close() error { return nil }

func (s containerdStore) put(
	ctx context.Context, source io.Reader, expected ispec.Descriptor,
) (digest.Digest, error) {
	err := content.WriteBlob(ctx, s, expected.Digest.String(), source, expected)
	return expected.Digest, err
}

// get: the store verifies nothing, so it is done here as containerd's clients do.
func (s containerdStore) get(ctx context.Context, expected ispec.Descriptor) (io.Reader, func() error, error) {
	blob, err := s.ReaderAt(ctx, expected)
	if err != nil {
		return nil, nil, err
	}
	reader, verify := verified(content.NewReader(blob), expected.Digest, blob.Close)
	return reader, verify, nil
}

func (s containerdStore) list(ctx context.Context) (count int, err error) {
	err = s.Walk(ctx, func(content.Info) error {
		count++
		return nil
	})
	return count, err
}

// verified hashes what is read from a blob whose system doesn't.
func verified(blob io.Reader, name digest.Digest, close func() error) (io.Reader, func() error) {
	verifier := name.Verifier()
	return io.TeeReader(blob, verifier), func() error {
		if !verifier.Verified() {
			return errors.Join(fmt.Errorf("%s is corrupt", name), close())
		}
		return close()
	}
}
