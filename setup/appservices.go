package setup

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"weft/clientapi"
)

// maxRegistration bounds a registration file.
const maxRegistration = 1 << 20

// appservices reads the registration files of application services.
func (c *Config) appservices() ([]clientapi.Appservice, error) {
	var out []clientapi.Appservice
	for _, pattern := range c.Appservices {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("appservices: %q: %w", pattern, err)
		}
		if len(files) == 0 && !hasMeta(pattern) {
			return nil, fmt.Errorf("appservices: there is no file %s", pattern)
		}
		slices.Sort(files)
		for _, file := range files {
			a, err := readAppservice(file)
			if err != nil {
				return nil, fmt.Errorf("appservices: %s: %w", file, err)
			}
			out = append(out, a)
		}
	}
	return out, nil
}

// hasMeta tells whether a pattern may match several files, or none.
func hasMeta(pattern string) bool {
	for _, r := range pattern {
		if r == '*' || r == '?' || r == '[' {
			return true
		}
	}
	return false
}

func readAppservice(file string) (clientapi.Appservice, error) {
	f, err := os.Open(file)
	if err != nil {
		return clientapi.Appservice{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxRegistration+1))
	if err != nil {
		return clientapi.Appservice{}, err
	}
	if len(data) > maxRegistration {
		return clientapi.Appservice{}, fmt.Errorf("larger than %d bytes", maxRegistration)
	}
	return clientapi.ParseAppservice(data)
}
