// Command go-peers drives systems written in Go for the comparisons of bench/: `go-peers NAME` is a
// server for one of them.
//
// Requests and answers: ../program.py. The Python side alternates systems inside one run, so neither the
// start of a process nor the warm-up of the Go runtime may fall into a timed section. Digests are
// returned so that the caller checks them afterwards.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

type answer struct {
	Nanoseconds int64    `json:"ns"`
	Digest      string   `json:"digest,omitempty"`
	Digests     []string `json:"digests,omitempty"`
	DiffID      string   `json:"diff_id,omitempty"`
	Size        int64    `json:"size,omitempty"`
	Count       int      `json:"count,omitempty"`
	Version     string   `json:"version,omitempty"`
	Operations  []string `json:"operations,omitempty"`
	Syncs       string   `json:"syncs,omitempty"`
	Layout      bool     `json:"layout,omitempty"`
	Error       string   `json:"error,omitempty"`
}

type command struct {
	arguments int
	run       func(args []string) (answer, error)
}

type system struct {
	module   string
	syncs    string
	layout   bool
	commands map[string]command
}

var systems = map[string]system{
	"umoci": {
		"github.com/opencontainers/umoci", "file", true,
		storeCommands(umociStore{}, createUmoci, openUmoci),
	},
	"containerd": {
		"github.com/containerd/containerd/v2", "file and directory", true,
		storeCommands(containerdStore{}, createContainerd, openContainerd),
	},
	"oras-go": {
		"oras.land/oras-go/v2", "nothing", true,
		storeCommands(orasStore{}, createOras, openOras),
	},
	"ggcr": {
		"github.com/google/go-containerregistry", "nothing", true,
		storeCommands(ggcrStore{}, createGgcr, openGgcr),
	},
	"pgzip": {
		"github.com/klauspost/pgzip", "nothing", false,
		map[string]command{"compress": {3, compress}},
	},
}

func main() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go-peers:", err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	if len(args) != 1 {
		return errors.New("takes the name of one system")
	}
	chosen, known := systems[args[0]]
	if !known {
		return fmt.Errorf("unknown system %q", args[0])
	}
	chosen.commands["hello"] = command{0, func([]string) (answer, error) { return hello(args[0], chosen) }}
	requests, answers := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := requests.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		result, err := perform(chosen, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
		if err != nil {
			result = answer{Error: err.Error()}
		}
		if err := answers.Encode(result); err != nil {
			return err
		}
	}
}

func perform(chosen system, fields []string) (answer, error) {
	cmd, known := chosen.commands[fields[0]]
	if !known || len(fields)-1 != cmd.arguments {
		return answer{}, fmt.Errorf("not understood: %q", fields)
	}
	// A collection that an earlier request left over must not be charged to this one.
	runtime.GC()
	return cmd.run(fields[1:])
}

func hello(name string, chosen system) (answer, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return answer{}, errors.New("no build information")
	}
	for _, dep := range info.Deps {
		if dep.Path == chosen.module {
			return answer{
				Version:    name + " " + dep.Version + ", " + runtime.Version(),
				Operations: slices.Sorted(maps.Keys(chosen.commands)),
				Syncs:      chosen.syncs,
				Layout:     chosen.layout,
			}, nil
		}
	}
	return answer{}, fmt.Errorf("%s isn't among the dependencies", chosen.module)
}
