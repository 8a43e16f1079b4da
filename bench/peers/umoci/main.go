// Command umoci-peer drives umoci's own directory engine for the comparison in bench/run.py.
//
// It is a server: a request is one line of tab-separated fields on standard input, an answer is one
// JSON object on standard output. The Python side alternates systems inside one run, so neither the
// start of a process nor the warm-up of the Go runtime may fall into a timed section. What is timed
// is said at each command; digests are returned so that the caller checks them afterwards.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/apex/log"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/umoci/oci/cas"
	"github.com/opencontainers/umoci/oci/cas/dir"
	"github.com/opencontainers/umoci/oci/casext"
)

const (
	engineModule = "github.com/opencontainers/umoci"
	// The engine's verified reader makes one read(2) for each call, so the caller's buffer decides;
	// 1 MiB flatters it over the 32 KiB that io.Copy would use.
	readSize = 1 << 20
)

type answer struct {
	Nanoseconds int64    `json:"ns"`
	Digest      string   `json:"digest,omitempty"`
	Digests     []string `json:"digests,omitempty"`
	Size        int64    `json:"size,omitempty"`
	Count       int      `json:"count,omitempty"`
	Version     string   `json:"version,omitempty"`
	Error       string   `json:"error,omitempty"`
}

type command struct {
	arguments int
	run       func(ctx context.Context, args []string) (answer, error)
}

var commands = map[string]command{
	"version":      {0, version},
	"create":       {1, create},
	"put":          {2, put},
	"get":          {2, get},
	"copy":         {3, copyOut},
	"put-small":    {3, putSmall},
	"get-small":    {2, getSmall},
	"list":         {1, list},
	"index-update": {4, indexUpdate},
	"walk":         {1, walk},
	"gc":           {1, gc},
}

func main() {
	// A walk tells of each layer that it has no parser for it.
	log.SetLevel(log.WarnLevel)
	requests := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := requests.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "umoci-peer:", err)
			os.Exit(1)
		}
		if err := answers.Encode(serve(strings.Split(strings.TrimSuffix(line, "\n"), "\t"))); err != nil {
			os.Exit(1)
		}
	}
}

func serve(fields []string) answer {
	cmd, known := commands[fields[0]]
	if !known {
		return answer{Error: fmt.Sprintf("unknown command %q", fields[0])}
	}
	if len(fields)-1 != cmd.arguments {
		return answer{Error: fmt.Sprintf("%s takes %d arguments", fields[0], cmd.arguments)}
	}
	// A collection that an earlier request left over must not be charged to this one.
	runtime.GC()
	result, err := cmd.run(context.Background(), fields[1:])
	if err != nil {
		return answer{Error: err.Error()}
	}
	return result
}

// version: VERSION of the engine's module and of the Go toolchain.
func version(context.Context, []string) (answer, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return answer{}, errors.New("no build information")
	}
	for _, dep := range info.Deps {
		if dep.Path == engineModule {
			return answer{Version: "umoci " + dep.Version + ", " + runtime.Version()}, nil
		}
	}
	return answer{}, errors.New("umoci isn't among the dependencies")
}

// create ROOT: a new layout.
func create(_ context.Context, args []string) (answer, error) {
	return answer{}, dir.Create(args[0])
}

// put ROOT SOURCE: one blob from a file. Timed: opening the source and PutBlob.
func put(ctx context.Context, args []string) (result answer, err error) {
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		source, err := os.Open(args[1])
		if err != nil {
			return err
		}
		defer source.Close()
		name, size, err := engine.PutBlob(ctx, source)
		result = answer{Nanoseconds: time.Since(started).Nanoseconds(), Digest: name.String(), Size: size}
		return err
	})
	return result, err
}

// get ROOT DIGEST: a verified read of one blob to its end. Timed: GetBlob, the reads, Close.
func get(ctx context.Context, args []string) (result answer, err error) {
	buffer := make([]byte, readSize)
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		size, err := readVerified(ctx, engine, digest.Digest(args[1]), buffer)
		result = answer{Nanoseconds: time.Since(started).Nanoseconds(), Size: size}
		return err
	})
	return result, err
}

// copy ROOT DIGEST DESTINATION: a verified copy into a new file, not synced. Timed: GetBlob, the
// copy, both closes.
func copyOut(ctx context.Context, args []string) (result answer, err error) {
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		blob, err := engine.GetBlob(ctx, digest.Digest(args[1]))
		if err != nil {
			return err
		}
		target, err := os.OpenFile(args[2], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return errors.Join(err, blob.Close())
		}
		size, err := io.Copy(target, blob)
		err = errors.Join(err, blob.Close(), target.Close())
		result = answer{Nanoseconds: time.Since(started).Nanoseconds(), Size: size}
		return err
	})
	return result, err
}

// put-small ROOT FILE SIZE: FILE cut into blobs of SIZE bytes, stored one by one from memory.
// Timed: the PutBlob calls.
func putSmall(ctx context.Context, args []string) (result answer, err error) {
	content, err := os.ReadFile(args[1])
	if err != nil {
		return result, err
	}
	size, err := strconv.Atoi(args[2])
	if err != nil || size <= 0 || len(content)%size != 0 {
		return result, fmt.Errorf("%s isn't a whole number of blobs of %s bytes", args[1], args[2])
	}
	names := make([]string, 0, len(content)/size)
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		for rest := content; len(rest) > 0; rest = rest[size:] {
			name, _, err := engine.PutBlob(ctx, bytes.NewReader(rest[:size]))
			if err != nil {
				return err
			}
			names = append(names, name.String())
		}
		result = answer{Nanoseconds: time.Since(started).Nanoseconds(), Digests: names, Count: len(names)}
		return nil
	})
	return result, err
}

// get-small ROOT FILE: verified reads, one by one, of the digests that FILE holds, one a line.
// Timed: for each blob GetBlob, the reads, Close.
func getSmall(ctx context.Context, args []string) (result answer, err error) {
	content, err := os.ReadFile(args[1])
	if err != nil {
		return result, err
	}
	names := strings.Fields(string(content))
	buffer := make([]byte, readSize)
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		for _, name := range names {
			size, err := readVerified(ctx, engine, digest.Digest(name), buffer)
			if err != nil {
				return err
			}
			result.Size += size
		}
		result.Nanoseconds = time.Since(started).Nanoseconds()
		result.Count = len(names)
		return nil
	})
	return result, err
}

// list ROOT: every digest of the store. Timed: ListBlobs.
func list(ctx context.Context, args []string) (result answer, err error) {
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		names, err := engine.ListBlobs(ctx)
		result = answer{Nanoseconds: time.Since(started).Nanoseconds(), Count: len(names)}
		return err
	})
	return result, err
}

// index-update ROOT DIGEST SIZE N: N reference updates of the one name "bench" in a row, as umoci's
// own commands make them (no lock). Timed: the UpdateReference calls.
func indexUpdate(ctx context.Context, args []string) (result answer, err error) {
	size, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return result, err
	}
	rounds, err := strconv.Atoi(args[3])
	if err != nil {
		return result, err
	}
	descriptor := ispec.Descriptor{
		MediaType: ispec.MediaTypeImageManifest,
		Digest:    digest.Digest(args[1]),
		Size:      size,
	}
	err = withEngine(args[0], func(engine cas.Engine) error {
		extended := casext.NewEngine(engine)
		started := time.Now()
		for range rounds {
			if err := extended.UpdateReference(ctx, "bench", descriptor); err != nil {
				return err
			}
		}
		result = answer{Nanoseconds: time.Since(started).Nanoseconds(), Count: rounds}
		return nil
	})
	return result, err
}

// walk ROOT: from each entry of the index down, as umoci's own commands walk. Timed: GetIndex and the
// Walk calls. Counted: the descriptors met.
func walk(ctx context.Context, args []string) (result answer, err error) {
	err = withEngine(args[0], func(engine cas.Engine) error {
		extended := casext.NewEngine(engine)
		started := time.Now()
		index, err := extended.GetIndex(ctx)
		if err != nil {
			return err
		}
		for _, entry := range index.Manifests {
			err := extended.Walk(ctx, entry, func(casext.DescriptorPath) error {
				result.Count++
				return nil
			})
			if err != nil {
				return err
			}
		}
		result.Nanoseconds = time.Since(started).Nanoseconds()
		return nil
	})
	return result, err
}

// gc ROOT: Timed: GC, without policies.
func gc(ctx context.Context, args []string) (result answer, err error) {
	err = withEngine(args[0], func(engine cas.Engine) error {
		started := time.Now()
		err := casext.NewEngine(engine).GC(ctx)
		result = answer{Nanoseconds: time.Since(started).Nanoseconds()}
		return err
	})
	return result, err
}

// withEngine opens the layout, runs use and closes it again; neither end is timed.
func withEngine(root string, use func(cas.Engine) error) error {
	engine, err := dir.Open(root)
	if err != nil {
		return err
	}
	return errors.Join(use(engine), engine.Close())
}

// readVerified reads a blob to its end. The digest is checked by the reader, its verdict is only
// certain after Close.
func readVerified(
	ctx context.Context, engine cas.Engine, name digest.Digest, buffer []byte,
) (int64, error) {
	blob, err := engine.GetBlob(ctx, name)
	if err != nil {
		return 0, err
	}
	var total int64
	for {
		n, err := blob.Read(buffer)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return total, errors.Join(err, blob.Close())
		}
	}
	return total, blob.Close()
}
