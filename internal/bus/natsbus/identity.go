package natsbus

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// identityName is the name in every cluster's certificate. It is the same everywhere because a node is known by the
// key, not by where it runs.
const identityName = "weft-cluster"

// NewIdentity makes what the nodes of a cluster share: a self-signed certificate (ECDSA P-256) and its key, as PEM.
// It is a secret. The certificate is valid from 2000 to 2200, so that no clock matters.
func NewIdentity() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("natsbus: new identity: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("natsbus: new identity: %w", err)
	}
	// It is no authority: the certificate itself is trusted, and it vouches for no other.
	cert := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: identityName},
		DNSNames:     []string{identityName},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("natsbus: new identity: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("natsbus: new identity: %w", err)
	}
	var out bytes.Buffer
	for _, b := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := pem.Encode(&out, b); err != nil {
			return nil, fmt.Errorf("natsbus: new identity: %w", err)
		}
	}
	return out.Bytes(), nil
}

// TLSConfig serves both sides of a connection between nodes: each shows the identity and accepts nothing else.
func TLSConfig(identity []byte) (*tls.Config, error) {
	if len(identity) == 0 {
		return nil, errors.New("natsbus: no identity")
	}
	cert, err := tls.X509KeyPair(identity, identity)
	if err != nil {
		return nil, fmt.Errorf("natsbus: identity: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		ServerName:             identityName,
		RootCAs:                pool,
		ClientCAs:              pool,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
	}, nil
}
