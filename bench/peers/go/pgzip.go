package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/klauspost/pgzip"
)

type counter int64

func (c *counter) Write(data []byte) (int, error) {
	*c += counter(len(data))
	return len(data), nil
}

// compress LEVEL SOURCE TARGET: a gzip file with pgzip's own block size and number of blocks, and the
// digests of the plain and of the compressed stream in the same pass, as umoci makes a layer. Timed:
// all of it, from the opening of the source to the closing of the target; nothing is synced.
func compress(args []string) (answer, error) {
	level, err := strconv.Atoi(args[0])
	if err != nil {
		return answer{}, err
	}
	started := time.Now()
	source, err := os.Open(args[1])
	if err != nil {
		return answer{}, err
	}
	defer source.Close()
	target, err := os.Create(args[2])
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
