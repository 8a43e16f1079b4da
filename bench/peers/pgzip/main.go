// Command pgzip-peer compresses files with github.com/klauspost/pgzip for bench/compress_peers.py.
//
// It is a server like umoci-peer: a request is one line of tab-separated fields on standard input, an
// answer is one JSON object on standard output, so that neither the start of a process nor the warm-up
// of the Go runtime falls into a timed section.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/klauspost/pgzip"
)

const (
	module   = "github.com/klauspost/pgzip"
	readSize = 1 << 20
)

type answer struct {
	Nanoseconds int64  `json:"ns"`
	Digest      string `json:"digest,omitempty"`
	DiffID      string `json:"diff_id,omitempty"`
	Size        int64  `json:"size,omitempty"`
	Version     string `json:"version,omitempty"`
	Error       string `json:"error,omitempty"`
}

func main() {
	requests := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := requests.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "pgzip-peer:", err)
			os.Exit(1)
		}
		result, err := serve(strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
		if err != nil {
			result = answer{Error: err.Error()}
		}
		if err := answers.Encode(result); err != nil {
			os.Exit(1)
		}
	}
}

func serve(fields []string) (answer, error) {
	// A collection that an earlier request left over must not be charged to this one.
	runtime.GC()
	switch {
	case fields[0] == "version" && len(fields) == 1:
		return version()
	case fields[0] == "compress" && len(fields) == 4:
		level, err := strconv.Atoi(fields[1])
		if err != nil {
			return answer{}, err
		}
		return compress(level, fields[2], fields[3])
	}
	return answer{}, fmt.Errorf("not understood: %q", fields)
}

// version: VERSION of the module and of the Go toolchain.
func version() (answer, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return answer{}, errors.New("no build information")
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return answer{Version: "pgzip " + dep.Version + ", " + runtime.Version()}, nil
		}
	}
	return answer{}, errors.New("pgzip isn't among the dependencies")
}

type counter int64

func (c *counter) Write(data []byte) (int, error) {
	*c += counter(len(data))
	return len(data), nil
}

// compress LEVEL SOURCE TARGET: a gzip file with pgzip's own block size and number of blocks, and the
// digests of the plain and of the compressed stream in the same pass, as umoci makes a layer. Timed:
// all of it, from the opening of the source to the closing of the target; nothing is synced.
func compress(level int, sourceName, targetName string) (result answer, err error) {
	started := time.Now()
	source, err := os.Open(sourceName)
	if err != nil {
		return answer{}, err
	}
	defer source.Close()
	target, err := os.Create(targetName)
	if err != nil {
		return answer{}, err
	}
	defer target.Close()
	plain, stored, size := sha256.New(), sha256.New(), counter(0)
	writer, err := pgzip.NewWriterLevel(io.MultiWriter(stored, target, &size), level)
	if err != nil {
		return answer{}, err
	}
	if _, err := io.CopyBuffer(writer, onlyReader{io.TeeReader(source, plain)}, make([]byte, readSize)); err != nil {
		return answer{}, err
	}
	if err := writer.Close(); err != nil {
		return answer{}, err
	}
	if err := target.Close(); err != nil {
		return answer{}, err
	}
	return answer{
		Nanoseconds: time.Since(started).Nanoseconds(),
		Digest:      "sha256:" + hex.EncodeToString(stored.Sum(nil)),
		DiffID:      "sha256:" + hex.EncodeToString(plain.Sum(nil)),
		Size:        int64(size),
	}, nil
}

// onlyReader hides WriteTo, so that io.CopyBuffer uses the buffer that it is given.
type onlyReader struct{ io.Reader }
