package freeport_test

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"weft/internal/freeport"
)

// many is so many of the ports that two takers who know nothing of each other would meet.
const many = 500

func addresses(t *testing.T) []string {
	t.Helper()
	var out []string
	for range many {
		a, err := freeport.Address()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func TestAddressIsGivenOnce(t *testing.T) {
	if os.Getenv("WEFT_PRINT_ADDRESSES") != "" {
		t.Log(strings.Join(addresses(t), "\n"))
		return
	}
	seen := map[string]bool{}
	for _, a := range addresses(t) {
		if seen[a] {
			t.Fatalf("%s twice", a)
		}
		seen[a] = true
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	other := exec.Command(os.Args[0], "-test.run=^TestAddressIsGivenOnce$", "-test.v")
	other.Env = append(os.Environ(), "WEFT_PRINT_ADDRESSES=1")
	out, err := other.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found := 0
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "127.0.0.1:") {
			found++
			if seen[word] {
				t.Errorf("%s was given to another process as well", word)
			}
		}
	}
	if found != many {
		t.Fatalf("another process printed %d addresses of %d:\n%s", found, many, out)
	}
}
