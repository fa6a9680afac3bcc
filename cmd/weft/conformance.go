package main

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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"weft/setup"
)

// conformanceCommand starts a server the way the Complement suite wants it. It
// is the entry point of deploy/conformance.Dockerfile, whose image holds
// nothing but this binary, so that no shell script can do it.
func conformanceCommand() *cobra.Command {
	var ca, appservices, data, plain, secure string
	cmd := &cobra.Command{
		Use: "conformance", Short: "Run a server for a conformance suite", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name := os.Getenv("SERVER_NAME")
			if name == "" {
				return errors.New("SERVER_NAME is not set")
			}
			if err := os.MkdirAll(data, 0o700); err != nil {
				return err
			}
			cert := setup.TLS{Certificate: filepath.Join(data, "tls.crt"), Key: filepath.Join(data, "tls.key")}
			authority := setup.TLS{Certificate: filepath.Join(ca, "ca.crt"), Key: filepath.Join(ca, "ca.key")}
			number, isNode := os.LookupEnv(envNode)
			if !isNode {
				if err := issueCertificate(name, authority, cert, time.Now()); err != nil {
					return err
				}
			}
			c := setup.Default()
			c.ServerName, c.DataDir = name, data
			c.Listeners = []setup.Listener{{Address: plain}, {Address: secure, TLS: cert}}
			c.Registration = setup.Registration{Mode: "open", SharedSecret: "complement", Guests: true}
			c.Federation.CAFile = authority.Certificate
			c.Federation.AllowPrivateAddresses = true
			c.RateLimits.Enabled = false
			c.Media.LegacyDownloads = true
			// The suite takes it for granted that whoever creates a room has a power level,
			// which ended with version 12; the tests of newer versions name theirs.
			c.Rooms.DefaultVersion = "11"
			if version := os.Getenv("WEFT_ROOM_VERSION"); version != "" {
				c.Rooms.DefaultVersion = version
			}
			c.Appservices = []string{filepath.Join(appservices, "*.yaml")}
			if level := os.Getenv("WEFT_LOG_LEVEL"); level != "" {
				c.Log.Level = level
			}
			nodes, err := nodesOf(&c)
			if err != nil {
				return err
			}
			if isNode {
				i, err := strconv.Atoi(number)
				if err != nil || i < 0 || i >= len(nodes) {
					return fmt.Errorf("%s: %q is no process of %d", envNode, number, len(nodes))
				}
				if err := asNode(&c, i, nodes[i]); err != nil {
					return err
				}
			} else if len(nodes) > 0 {
				return serveNodes(cmd.Context(), &c, len(nodes))
			}
			if err := c.Validate(); err != nil {
				return err
			}
			return serve(cmd, c)
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "/complement/ca", "folder of ca.crt and ca.key")
	cmd.Flags().StringVar(&appservices, "appservices", "/complement/appservice", "folder of application services' registration files")
	cmd.Flags().StringVar(&data, "data", "/data", "folder of the server's data")
	cmd.Flags().StringVar(&plain, "listen", ":8008", "address of plain HTTP")
	cmd.Flags().StringVar(&secure, "listen-tls", ":8448", "address of HTTPS")
	return cmd
}

// issueCertificate makes a TLS certificate for name, signed by the authority's
// files, and writes it and its key.
func issueCertificate(name string, authority, into setup.TLS, now time.Time) error {
	ca, err := tls.LoadX509KeyPair(authority.Certificate, authority.Key)
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	caCert, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("TLS key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	host := name
	if h, _, err := net.SplitHostPort(name); err == nil {
		host = h
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{host}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, caCert, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("TLS key: %w", err)
	}
	if err := os.WriteFile(into.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	if err := os.WriteFile(into.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return fmt.Errorf("TLS key: %w", err)
	}
	return nil
}
