package remote

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateLifetime bounds what an authority vouches for, itself included.
const certificateLifetime = 30 * 24 * time.Hour

// Names of the files in an authority's folder.
const (
	authorityCertificate = "ca.crt"
	authorityKey         = "ca.key"
)

// Authority issues the certificates of a test network. The server under test
// trusts it by its file (weft: --federation-ca).
type Authority struct {
	// File is the PEM file of the certificate; empty when it is in memory only.
	File string

	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority in memory.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("remote: authority: %w", err)
	}
	template, err := certificateTemplate("synthetic federation authority")
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("remote: authority: %w", err)
	}
	return newAuthority(der, key)
}

func newAuthority(der []byte, key *ecdsa.PrivateKey) (*Authority, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("remote: authority: %w", err)
	}
	return &Authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// OpenAuthority gives the authority of a folder (ca.crt and ca.key), which is made
// where it is not there.
func OpenAuthority(dir string) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, authorityCertificate), filepath.Join(dir, authorityKey)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return createAuthority(dir, certFile, keyFile)
	case err != nil:
		return nil, fmt.Errorf("remote: authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("remote: authority: %s holds no ECDSA key", keyFile)
	}
	a, err := newAuthority(pair.Certificate[0], key)
	if err == nil {
		a.File = certFile
	}
	return a, err
}

func createAuthority(dir, certFile, keyFile string) (*Authority, error) {
	a, err := NewAuthority()
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(a.key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("remote: authority: %w", err)
	}
	if err := writeFiles(map[string][]byte{certFile: a.pem, keyFile: keyPEM}); err != nil {
		return nil, err
	}
	a.File = certFile
	return a, nil
}

// Pool gives a pool with the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue makes a certificate for host names and IP addresses.
func (a *Authority) Issue(hosts ...string) (tls.Certificate, error) {
	der, key, err := a.issue(hosts)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// WriteCertificate makes a certificate for host names and IP addresses and writes
// it and its key as NAME.crt and NAME.key into a folder: for the server under
// test (weft: --tls-cert, --tls-key).
func (a *Authority) WriteCertificate(dir, name string, hosts ...string) (certFile, keyFile string, err error) {
	der, key, err := a.issue(hosts)
	if err != nil {
		return "", "", err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	return certFile, keyFile, writeFiles(map[string][]byte{
		certFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyFile: keyPEM,
	})
}

func (a *Authority) issue(hosts []string) (der []byte, key *ecdsa.PrivateKey, err error) {
	if len(hosts) == 0 {
		return nil, nil, errors.New("remote: a certificate needs a host")
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("remote: certificate: %w", err)
	}
	template, err := certificateTemplate(hosts[0])
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key); err != nil {
		return nil, nil, fmt.Errorf("remote: certificate: %w", err)
	}
	return der, key, nil
}

func certificateTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("remote: certificate: %w", err)
	}
	// TLS compares with the clock of the machine, not with one of a test.
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLifetime),
	}, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("remote: key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writeFiles(files map[string][]byte) error {
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return fmt.Errorf("remote: %w", err)
		}
	}
	return nil
}
