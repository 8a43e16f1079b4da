// Jsonvectors prints what Go's encoding/json makes of values, as lines of {"kind","in","out"}: the
// tests hold fastcas's "go" style against them. With kind "value", "in" is any JSON, decoded to
// interface{} (so each number is a float64) and encoded again; with "descriptor", "manifest" or
// "index" it is decoded to that struct of the image specification.
//
// To record again: go run . > ../jsonvectors.jsonl
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/image-spec/specs-go/v1"
)

type vector struct {
	Kind string `json:"kind"`
	In   string `json:"in"`
	Out  string `json:"out"`
}

var digest = "sha256:" + strings.Repeat("a", 64)

var values = []string{
	`null`, `true`, `[]`, `{}`, `""`, `[[],{},[null,false]]`,
	`"<script>&amp;</script>"`, `"\u2028\u2029\u2027\u202a"`, `"\u0000\u0001\u0008\t\n\u000b\f\r\u001f\u007f\u0080"`,
	`"quote \" backslash \\ slash / apostrophe '"`, `"\u00e9\u20ac\ud83d\ude00\ufffd\uffff"`,
	`{"b":1,"a":2,"B":3,"":4,"\u00e9":5,"\ud83d\ude00":6,"\uffff":7,"a b":8,"<":9}`,
	`{"z":{"y":[{"x":1,"w":{"v":"<"}}]},"a":{"&":"\u2028"}}`,
	`0`, `-0`, `0.0`, `1.0`, `1.5`, `-1.25`, `1e6`, `1e20`, `1e21`, `123456789012345678901`, `1e22`, `1e-6`, `1e-7`,
	`0.000001234`, `0.0000001234`, `9007199254740993`, `1.7976931348623157e308`, `5e-324`, `0.1`, `0.30000000000000004`,
}

var structs = [][2]string{
	{"descriptor", `{"size":1,"digest":"` + digest + `","mediaType":"a/b"}`},
	{"descriptor", `{"artifactType":"a/t","platform":{"variant":"v8","os":"linux","architecture":"arm64","os.version":"1","os.features":["b","a"]},` +
		`"data":"PD4mAP8=","annotations":{"z":"<&>","a":"\u2028"},"urls":["b?x&y","a"],"size":0,"digest":"` + digest + `","mediaType":"a/b"}`},
	{"manifest", `{"layers":[{"mediaType":"a/l","digest":"` + digest + `","size":2}],"config":{"mediaType":"a/c","digest":"` + digest + `","size":3},` +
		`"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}`},
	{"manifest", `{"annotations":{"b":">","a":""},"subject":{"mediaType":"a/s","digest":"` + digest + `","size":4},"layers":[],` +
		`"config":{"mediaType":"a/c","digest":"` + digest + `","size":3},"artifactType":"a/t","mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}`},
	{"index", `{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}`},
	{"index", `{"annotations":{"b":"x"},"subject":{"mediaType":"a/s","digest":"` + digest + `","size":4},"artifactType":"a/t",` +
		`"manifests":[{"mediaType":"a/m","digest":"` + digest + `","size":5,"annotations":{"org.opencontainers.image.ref.name":"v1"}}],` +
		`"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}`},
}

func encode(kind, in string) string {
	var value interface{}
	switch kind {
	case "descriptor":
		value = &v1.Descriptor{}
	case "manifest":
		value = &v1.Manifest{}
	case "index":
		value = &v1.Index{}
	default:
		value = new(interface{})
	}
	if err := json.Unmarshal([]byte(in), value); err != nil {
		panic(fmt.Sprintf("%s: %v", in, err))
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(value); err != nil {
		panic(err)
	}
	return out.String()
}

func main() {
	var vectors []vector
	add := func(kind, in string) { vectors = append(vectors, vector{kind, in, encode(kind, in)}) }
	for _, in := range values {
		add("value", in)
	}
	for _, pair := range structs {
		add(pair[0], pair[1])
	}
	// Doubles of every magnitude, as Go writes them and as 17 digits.
	random := rand.New(rand.NewSource(1))
	for len(vectors) < 400 {
		double := math.Float64frombits(random.Uint64())
		if len(vectors)%2 == 0 {
			double = (random.Float64() - 0.5) * math.Pow(10, float64(random.Intn(60)-30))
		}
		if !math.IsNaN(double) && !math.IsInf(double, 0) {
			add("value", strconv.FormatFloat(double, 'e', 17, 64))
		}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for _, each := range vectors {
		if err := out.Encode(each); err != nil {
			panic(err)
		}
	}
}
