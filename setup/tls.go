package setup

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// certCheck is how often a certificate's files are looked at.
const certCheck = 15 * time.Second

// certificate is a TLS certificate that is read again when its files change,
// so that a renewal needs no restart.
type certificate struct {
	files TLS
	log   logrus.FieldLogger
	now   func() time.Time

	// mu guards what is below.
	mu      sync.Mutex
	cert    *tls.Certificate
	version fileVersion
	checked time.Time
}

// fileVersion tells whether the files changed.
type fileVersion struct {
	cert, key time.Time
	size      int64
}

func loadCertificate(files TLS, log logrus.FieldLogger, now func() time.Time) (*certificate, error) {
	c := &certificate{files: files, log: log, now: now, checked: now()}
	var err error
	if c.version, err = c.stat(); err != nil {
		return nil, err
	}
	return c, c.load()
}

func (c *certificate) stat() (fileVersion, error) {
	cert, err := os.Stat(c.files.Certificate)
	if err != nil {
		return fileVersion{}, fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := os.Stat(c.files.Key)
	if err != nil {
		return fileVersion{}, fmt.Errorf("TLS key: %w", err)
	}
	return fileVersion{cert.ModTime(), key.ModTime(), cert.Size() + key.Size()}, nil
}

func (c *certificate) load() error {
	cert, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return fmt.Errorf("TLS certificate %s: %w", c.files.Certificate, err)
	}
	c.cert = &cert
	return nil
}

// get is a tls.Config's GetCertificate. While the new files are broken, the
// old certificate stays in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) >= certCheck {
		c.checked = now
		v, err := c.stat()
		if err == nil && v != c.version {
			if err = c.load(); err == nil {
				c.version = v
				c.log.WithField("file", c.files.Certificate).Info("TLS certificate renewed")
			}
		}
		if err != nil {
			c.log.WithError(err).Error("TLS certificate not renewed; the old one stays in use")
		}
	}
	return c.cert, nil
}
