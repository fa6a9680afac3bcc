package setup

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"weft/internal/serverkey"
	"weft/matrix/id"
)

// CheckFiles checks the files that a valid configuration names, without
// changing anything. A signing key that is not there yet is no error.
func CheckFiles(c *Config) error {
	var errs []error
	_, warning, err := serverkey.Load(id.Server(c.ServerName), c.signingKeyPath())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if warning != "" {
		err = errors.New(warning)
	}
	errs = append(errs, err)
	for i, l := range c.Listeners {
		if l.TLS.Certificate == "" {
			continue
		}
		if _, err := tls.LoadX509KeyPair(l.TLS.Certificate, l.TLS.Key); err != nil {
			errs = append(errs, fmt.Errorf("listeners[%d].tls: %w", i, err))
		}
	}
	if file := c.Federation.CAFile; file != "" {
		data, err := os.ReadFile(file)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("federation.ca_file: %w", err))
		case !x509.NewCertPool().AppendCertsFromPEM(data):
			errs = append(errs, fmt.Errorf("federation.ca_file: %s holds no certificate", file))
		}
	}
	_, err = c.appservices()
	return errors.Join(append(errs, err)...)
}
