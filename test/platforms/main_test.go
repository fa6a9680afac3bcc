package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What is good on one platform only is found on the others, in own packages and in those that they import.
func TestFindsWhatAnotherPlatformLacks(t *testing.T) {
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "internal", "roundrobin", "other.go")
	overlay := map[string][]byte{file: []byte("package roundrobin\n\nimport \"syscall\"\n\nvar _ = syscall.SIGUSR1\n")}
	for platform, want := range map[string]string{"linux/amd64": "", "linux/arm64": "", "windows/amd64": "SIGUSR1"} {
		got, err := check(t.Context(), dir, platform, []string{"./internal/roundrobin"}, overlay)
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(got, "\n"); !strings.Contains(all, want) || want == "" && all != "" {
			t.Errorf("%s: %q, want %q", platform, all, want)
		}
	}
	if _, err := check(t.Context(), dir, "linux", []string{"./internal/roundrobin"}, nil); err == nil {
		t.Error("a platform without GOARCH is taken")
	}
}
