package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blobs are read by this much, which is kinder than the 32 KiB of io.Copy.
const readSize = 1 << 20

// store is what every system offers; of the interfaces below it, what the system has.
type store interface {
	// put stores what source gives. What is expected is told to those that must know it beforehand.
	put(ctx context.Context, source io.Reader, expected ispec.Descriptor) (digest.Digest, error)
	// get opens a blob. At its end verify says whether it was the right content, and closes it.
	get(ctx context.Context, expected ispec.Descriptor) (blob io.Reader, verify func() error, err error)
	close() error
}

type lister interface {
	list(ctx context.Context) (count int, err error)
}

type tagger interface {
	// tag makes the reference name lead to target and to nothing else.
	tag(ctx context.Context, name string, target ispec.Descriptor) error
}

type walker interface {
	// walk counts the descriptors met from the index down.
	walk(ctx context.Context) (count int, err error)
}

type collector interface {
	gc(ctx context.Context) error
}

// operation is a request about a store: prepare reads what its arguments name, and gives what is timed.
type operation struct {
	arguments int // after the root
	offered   func(kind store) bool
	prepare   func(args []string) (timed, error)
}

type timed func(ctx context.Context, opened store, result *answer) error

var operations = map[string]operation{
	"put":          {1, always, preparePut},
	"put-pieces":   {2, always, preparePutPieces},
	"get":          {1, always, prepareGet},
	"copy":         {2, always, prepareCopy},
	"list":         {0, has[lister], prepareList},
	"index-update": {3, has[tagger], prepareIndexUpdate},
	"walk":         {0, has[walker], prepareWalk},
	"gc":           {0, has[collector], prepareGC},
}

func always(store) bool { return true }

func has[T any](kind store) bool {
	_, offered := kind.(T)
	return offered
}

// storeCommands are the requests that stores like kind can answer.
func storeCommands(
	kind store, create func(root string) error, open func(root string) (store, error),
) map[string]command {
	commands := map[string]command{
		"create": {1, func(args []string) (answer, error) { return answer{}, create(args[0]) }},
	}
	for name, op := range operations {
		if !op.offered(kind) {
			continue
		}
		commands[name] = command{1 + op.arguments, func(args []string) (result answer, err error) {
			run, err := op.prepare(args[1:])
			if err != nil {
				return answer{}, err
			}
			opened, err := open(args[0])
			if err != nil {
				return answer{}, err
			}
			started := time.Now()
			err = run(context.Background(), opened, &result)
			result.Nanoseconds = time.Since(started).Nanoseconds()
			return result, errors.Join(err, opened.close())
		}}
	}
	return commands
}

// blob is a line of a listing.
type blob struct {
	ispec.Descriptor
	source string // a file; empty where a get is asked for
}

func readListing(name string) ([]blob, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var blobs []blob
	for line := range strings.Lines(string(content)) {
		fields := append(strings.Split(strings.TrimSuffix(line, "\n"), "\t"), "")
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, line, err)
		}
		descriptor := ispec.Descriptor{
			MediaType: "application/octet-stream", Digest: digest.Digest(fields[0]), Size: size,
		}
		blobs = append(blobs, blob{descriptor, fields[2]})
	}
	return blobs, nil
}

// preparePut: LISTING. Timed: for each blob the opening of its source, and the put.
func preparePut(args []string) (timed, error) {
	blobs, err := readListing(args[0])
	return func(ctx context.Context, opened store, result *answer) error {
		for _, blob := range blobs {
			source, err := os.Open(blob.source)
			if err != nil {
				return err
			}
			name, err := opened.put(ctx, source, blob.Descriptor)
			if err := errors.Join(err, source.Close()); err != nil {
				return err
			}
			result.Digests = append(result.Digests, name.String())
		}
		return nil
	}, err
}

// preparePutPieces: LISTING FILE. Timed: the puts, from memory.
func preparePutPieces(args []string) (timed, error) {
	blobs, err := readListing(args[0])
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(args[1])
	return func(ctx context.Context, opened store, result *answer) error {
		rest := content
		for _, blob := range blobs {
			name, err := opened.put(ctx, bytes.NewReader(rest[:blob.Size]), blob.Descriptor)
			if err != nil {
				return err
			}
			rest = rest[blob.Size:]
			result.Digests = append(result.Digests, name.String())
		}
		return nil
	}, err
}

// prepareGet: LISTING. Timed: for each blob its opening, the reads, the verdict and its closing.
func prepareGet(args []string) (timed, error) {
	blobs, err := readListing(args[0])
	buffer := make([]byte, readSize)
	return func(ctx context.Context, opened store, result *answer) error {
		for _, blob := range blobs {
			content, verify, err := opened.get(ctx, blob.Descriptor)
			if err != nil {
				return err
			}
			for err == nil {
				var n int
				n, err = content.Read(buffer)
				result.Size += int64(n)
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if err := errors.Join(err, verify()); err != nil {
				return err
			}
			result.Count++
		}
		return nil
	}, err
}

// prepareCopy: LISTING TARGET. Timed: the same for one blob, written to a new file by io.Copy, not synced.
func prepareCopy(args []string) (timed, error) {
	blobs, err := readListing(args[0])
	return func(ctx context.Context, opened store, result *answer) error {
		content, verify, err := opened.get(ctx, blobs[0].Descriptor)
		if err != nil {
			return err
		}
		target, err := os.OpenFile(args[1], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return errors.Join(err, verify())
		}
		result.Size, err = io.Copy(target, content)
		return errors.Join(err, verify(), target.Close())
	}, err
}

func prepareList([]string) (timed, error) {
	return func(ctx context.Context, opened store, result *answer) (err error) {
		result.Count, err = opened.(lister).list(ctx)
		return err
	}, nil
}

// prepareIndexUpdate: DIGEST SIZE N. Timed: the one reference "bench" replaced N times.
func prepareIndexUpdate(args []string) (timed, error) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return nil, err
	}
	updates, err := strconv.Atoi(args[2])
	target := ispec.Descriptor{
		MediaType: ispec.MediaTypeImageManifest, Digest: digest.Digest(args[0]), Size: size,
	}
	return func(ctx context.Context, opened store, result *answer) error {
		for ; result.Count < updates; result.Count++ {
			if err := opened.(tagger).tag(ctx, "bench", target); err != nil {
				return err
			}
		}
		return nil
	}, err
}

func prepareWalk([]string) (timed, error) {
	return func(ctx context.Context, opened store, result *answer) (err error) {
		result.Count, err = opened.(walker).walk(ctx)
		return err
	}, nil
}

func prepareGC([]string) (timed, error) {
	return func(ctx context.Context, opened store, _ *answer) error {
		return opened.(collector).gc(ctx)
	}, nil
}
